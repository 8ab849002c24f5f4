"""PV-RCNN on KITTI with the first 20 % of the train frames and 320 epochs instead of 80."""

_base_ = ['./pv_rcnn_kitti.py']

label_fraction = 0.2
