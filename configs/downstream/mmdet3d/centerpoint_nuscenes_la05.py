"""CenterPoint on nuScenes with the first 5 % of the train frames and 80 epochs instead of 20."""

_base_ = ['./centerpoint_nuscenes.py']

label_fraction = 0.05
