import sys

print("bad: one tensor too many is held")
sys.exit(1)
