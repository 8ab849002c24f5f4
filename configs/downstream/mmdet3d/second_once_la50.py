"""SECOND on ONCE with the first 50 % of the train frames and 160 epochs instead of 80."""

_base_ = ['./second_once.py']

label_fraction = 0.5
