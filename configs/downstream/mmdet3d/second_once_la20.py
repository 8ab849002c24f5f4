"""SECOND on ONCE with the first 20 % of the train frames and 320 epochs instead of 80."""

_base_ = ['./second_once.py']

label_fraction = 0.2
