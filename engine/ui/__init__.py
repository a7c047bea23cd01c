"""The page: what is loaded as graphs, what it does right now, what requests went through, and a form that sends one."""
