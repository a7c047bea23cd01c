"""What will happen: a pipeline compiled into a plan, and what a request's answers set off. Pure, without a clock."""
