"""Collecting a step: problems are attempted, judged, sent to experts and labelled."""
