"""CenterPoint on the first 50 % of every fifth Waymo train frame (10 % of Waymo), 60 epochs, not 30."""

_base_ = ['./centerpoint_waymo.py']

label_fraction = 0.5
