"""The checks of `alignment.check`, one in each module."""
