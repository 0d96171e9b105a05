"""One session for a Node front end and a FastAPI back end. See ``__main__``."""
