"""The executor: one delivery in, one outcome out, the same for Lambda, local workers, eager mode and tests."""
