"""CenterPoint on nuScenes with the first 20 % of the train frames and 80 epochs instead of 20."""

_base_ = ['./centerpoint_nuscenes.py']

label_fraction = 0.2
