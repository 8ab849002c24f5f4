"""The paper's SECOND on KITTI, first 5 % of the labelled frames (185 of 3,712), 320 epochs."""

_base_ = ['./second_kitti_paper.py']

label_fraction = 0.05
