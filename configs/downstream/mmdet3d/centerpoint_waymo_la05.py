"""CenterPoint on Waymo with the first 5 % of the train frames and 120 epochs instead of 30."""

_base_ = ['./centerpoint_waymo.py']

label_fraction = 0.05
