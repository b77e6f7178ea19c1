"""Prediction from an exported model, without torch."""
