"""CenterPoint on nuScenes with the first 50 % of the train frames and 40 epochs instead of 20."""

_base_ = ['./centerpoint_nuscenes.py']

label_fraction = 0.5
