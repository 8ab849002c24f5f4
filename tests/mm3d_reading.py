"""Generated data sets read through mmdet3d's own classes."""


def read_with_mmdet3d(kind, root, infos, points, classes, dim, split='train', paste=True):
    """mmdet3d's data set, with pasted objects in training if ``paste``."""
    import mmdet3d.datasets  # noqa: F401  (registers)
    from mmdet3d.registry import DATASETS

    import mmjepa.downstream.lidar  # noqa: F401  (mmdet3d on numpy 1.26)

    loader = dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=dim, use_dim=dim)
    sampler = dict(
        data_root=str(root),
        info_path=str(root / f'{infos}_dbinfos_train.pkl'),
        rate=1.0,
        prepare=dict(filter_by_difficulty=[-1], filter_by_min_points=dict.fromkeys(classes, 5)),
        classes=classes,
        sample_groups=dict.fromkeys(classes, 4),
        points_loader=loader,
    )
    pipeline = [
        loader,
        dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
        *([dict(type='ObjectSample', db_sampler=sampler)] if paste else []),
        dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d']),
    ]
    if split != 'train':
        pipeline = [loader, dict(type='Pack3DDetInputs', keys=['points'])]
    return DATASETS.build(
        dict(
            type=kind,
            data_root=str(root),
            ann_file=f'{infos}_infos_{split}.pkl',
            data_prefix=dict(pts=points, sweeps=points),
            metainfo=dict(classes=classes),
            modality=dict(use_lidar=True, use_camera=False),
            pipeline=pipeline,
            test_mode=split != 'train',
            _scope_='mmdet3d',
        )
    )


def count_points(sample):
    """Points in each box of a packed sample."""
    from mmdet3d.structures.ops.box_np_ops import points_in_rbbox

    boxes = sample['data_samples'].gt_instances_3d.bboxes_3d.tensor[:, :7].numpy()
    return points_in_rbbox(sample['inputs']['points'][:, :3].numpy(), boxes).sum(axis=0)
