"""SECOND on KITTI with the first 50 % of the labelled frames (1,856 of 3,712), 160 epochs."""

_base_ = ['./second_kitti.py']

label_fraction = 0.5
