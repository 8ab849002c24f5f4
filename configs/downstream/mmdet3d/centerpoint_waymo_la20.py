"""CenterPoint on Waymo with the first 20 % of the train frames and 120 epochs instead of 30."""

_base_ = ['./centerpoint_waymo.py']

label_fraction = 0.2
