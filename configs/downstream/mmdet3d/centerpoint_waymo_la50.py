"""CenterPoint on Waymo with the first 50 % of the train frames and 60 epochs instead of 30."""

_base_ = ['./centerpoint_waymo.py']

label_fraction = 0.5
