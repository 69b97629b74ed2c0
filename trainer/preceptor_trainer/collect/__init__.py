"""Collecting a step: problems are attempted, judged, shown to experts, and labelled."""
