import sys

print("skip: its control failed")
sys.exit(125)
