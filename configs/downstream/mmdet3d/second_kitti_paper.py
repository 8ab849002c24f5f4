"""SECOND on KITTI as AD-L-JEPA was fine-tuned (OpenPCDet's recipe): 66.36 -> 67.92.

    tools/dist_train.sh configs/downstream/mmdet3d/second_kitti_paper.py 4 \
        --cfg-options jepa_checkpoint=work_dirs/adl_jepa/kitti/epoch_30.pth

Mean moderate 3D AP (R40) on KITTI val, from scratch and pre-trained (Car 81.99 -> 81.68,
Pedestrian 52.02 -> 54.15, Cyclist 65.07 -> 67.93). Against second_kitti.py: class order,
anchors' IoUs of pedestrians and cyclists, anchors matched within their class, objects pasted, no noise on single objects, one cycle
3e-4 -> 3e-3 -> 3e-8, 80 epochs of 4 frames a GPU, more candidates before and after NMS.
"""

_base_ = ['./second_kitti.py']

batch_size = 4
classes = ['Car', 'Pedestrian', 'Cyclist']
minimum = dict(Car=5, Pedestrian=5, Cyclist=5)
sampler = dict(
    sample_groups=dict(Car=20, Pedestrian=15, Cyclist=15),
    prepare=dict(filter_by_difficulty=[-1], filter_by_min_points=minimum),
    classes=classes,
)
train_pipeline = [
    {**t, 'db_sampler': {**_base_.db_sampler, **sampler}} if t['type'] == 'ObjectSample' else t
    for t in _base_.train_pipeline
    if t['type'] != 'ObjectNoise'
]
box = _base_.point_cloud_range
car, small = [0.6, 0.45], [0.5, 0.35]  # IoU of positive and negative anchors
assigner = dict(
    type='Max3DIoUAssigner', iou_calculator=dict(type='BboxOverlapsNearest3D'), ignore_iof_thr=-1
)

model = dict(
    bbox_head=dict(
        assign_per_class=True,
        anchor_generator=dict(
            ranges=[[*box[:2], z, *box[3:5], z] for z in (-1.78, -0.6, -0.6)],
            sizes=[[3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73]],
        ),
    ),
    train_cfg=dict(
        assigner=[
            dict(**assigner, pos_iou_thr=high, neg_iou_thr=low, min_pos_iou=low)
            for high, low in (car, small, small)
        ]
    ),
    test_cfg=dict(nms_pre=4096, max_num=500),
)
metainfo = dict(classes=classes)
train_dataloader = dict(
    batch_size=batch_size, dataset=dict(dataset=dict(metainfo=metainfo, pipeline=train_pipeline))
)
val_dataloader = test_dataloader = dict(dataset=dict(metainfo=metainfo))
optim_wrapper = dict(optimizer=dict(lr=3e-3))
auto_scale_lr = dict(base_batch_size=16)
