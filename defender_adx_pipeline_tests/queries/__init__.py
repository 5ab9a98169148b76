"""Hunting queries of our own, and the tests that they bind and answer alike in Defender and in ADX."""
