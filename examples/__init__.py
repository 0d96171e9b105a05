"""Programs to read and to run: one small (`minimal`), one to look at (`dashboard`)."""
