"""The name that tests/attack imports `record` by; it is made in `tests.factories`."""

from tests.factories import record as record
