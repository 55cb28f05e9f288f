"""Between which releases or commits a bug came and went."""
