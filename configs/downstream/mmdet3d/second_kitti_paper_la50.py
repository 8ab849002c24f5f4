"""The paper's SECOND on KITTI, first 50 % of the labelled frames (1,856 of 3,712), 160 epochs."""

_base_ = ['./second_kitti_paper.py']

label_fraction = 0.5
