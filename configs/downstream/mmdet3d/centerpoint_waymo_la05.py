"""CenterPoint on the first 5 % of every fifth Waymo train frame (1 % of Waymo), 120 epochs, not 30."""

_base_ = ['./centerpoint_waymo.py']

label_fraction = 0.05
