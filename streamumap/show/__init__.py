"""Pictures, pages and tables of a finished map."""
