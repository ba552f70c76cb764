"""Number formats: what each can hold, how its name is spelled, and how values are rounded to it."""
