"""What a number means: pure functions and pure mergeable states."""
