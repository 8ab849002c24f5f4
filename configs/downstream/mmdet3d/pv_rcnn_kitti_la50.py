"""PV-RCNN on KITTI with the first 50 % of the train frames and 160 epochs instead of 80."""

_base_ = ['./pv_rcnn_kitti.py']

label_fraction = 0.5
