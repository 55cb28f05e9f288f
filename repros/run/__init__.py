"""A cell's server, a trial, a session, results on disk."""
