"""Damaged input: whatever a file or a command line holds, the answer is two lines or a right one."""
