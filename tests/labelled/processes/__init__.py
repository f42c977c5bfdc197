"""Programs that others wrote, looked at from outside, beside what their malloc says of itself."""
