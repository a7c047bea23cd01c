// Light or dark: as the system has it, until the reader chooses. Runs before the page is drawn.

const CHOICES = ["system", "light", "dark"];
const KEY = "theme";

const chosen = () => {
  const found = localStorage.getItem(KEY);
  return CHOICES.includes(found) ? found : "system";
};

const apply = (choice) => {
  if (choice === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
};

apply(chosen());

/** Make a button that goes round the choices and says which is taken. */
export function themeButton(button) {
  const show = () => {
    const choice = chosen();
    button.dataset.choice = choice;
    button.querySelector(".theme-word").textContent = choice;
    button.setAttribute("aria-label", `Theme: ${choice}`);
    button.title = `Theme: ${choice}`;
  };
  button.addEventListener("click", () => {
    localStorage.setItem(KEY, CHOICES[(CHOICES.indexOf(chosen()) + 1) % CHOICES.length]);
    apply(chosen());
    show();
  });
  show();
}
