"""The beat: entries that fire at times of their own, what a firing is, and the process that fires them locally."""
