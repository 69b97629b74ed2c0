"""What answers the student within an attempt: tools, and environments that others run."""
