"""The paper's SECOND on KITTI, first 20 % of the labelled frames (742 of 3,712), 320 epochs."""

_base_ = ['./second_kitti_paper.py']

label_fraction = 0.2
