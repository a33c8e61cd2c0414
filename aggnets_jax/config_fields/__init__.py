"""Config files, their fields by name, and facts about the data that they name."""
