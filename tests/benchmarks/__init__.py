"""What the suite itself costs. `nox -s bench` runs these and prints medians and ratios of one run."""
