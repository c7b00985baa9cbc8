"""Troika."""
