"""Settings of the probe of whole samples."""

from __future__ import annotations

from dataclasses import dataclass, field

from .features import ENCODERS
from .finetune import FinetuneSettings
from .sample_protocols import SAMPLE_PROTOCOLS, SampleProtocolSettings

SAMPLE_ARMS = ('untrained', 'checkpoint')


@dataclass(frozen=True)
class SampleProbeSettings:
    """What is compared, and how.

    Attributes:
        protocols: Of 'knn', 'linear', 'attentive', 'finetune'.
        arms: Of ``SAMPLE_ARMS``; 'checkpoint' is left out without one.
        seeds: Each draws its own untrained weights, held-out part, order of samples and initial
            weights of the probes.
        which: Of ``ENCODERS``: which of a method's encoders.
        layers: How many last layers may be read: 1, 4, or both to choose from (linear; the other
            protocols read the fewest). None: both, where the encoder gives single layers.
        train_split, test_split: Names of the splits; None finds the test split.
        max_train, max_test: Most samples, evenly spread over the split; None takes all.
        batch_size: Samples at a time in the encoder; None takes the config's.
        amp: Features, fine-tuning and self-attention of probes in bfloat16.
        clips: Of each video, spread over its length; the probe reads the tokens of all.
        views: Crops of each test video along its longer side: 1 (the middle) or 3. Attentive
            probes average their softmaxes; the other protocols average features.
        protocol: Numbers of the protocols on frozen features.
        finetune: Numbers of the one that isn't on frozen features.

    Raises:
        ValueError: On an unknown name, no seed, or a repeated one.
    """

    protocols: tuple[str, ...] = ('knn',)
    arms: tuple[str, ...] = SAMPLE_ARMS
    seeds: tuple[int, ...] = (0,)
    which: str = 'auto'
    layers: tuple[int, ...] | None = None
    train_split: str = 'train'
    test_split: str | None = None
    max_train: int | None = None
    max_test: int | None = None
    batch_size: int | None = None
    amp: bool = False
    clips: int = 1
    views: int = 1
    protocol: SampleProtocolSettings = field(default_factory=SampleProtocolSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)

    def __post_init__(self) -> None:
        known = {'protocols': SAMPLE_PROTOCOLS, 'arms': SAMPLE_ARMS, 'layers': (1, 4)}
        for name, values in known.items():
            given = getattr(self, name)
            if given is not None and (not given or set(given) - set(values)):
                told = ', '.join(map(str, values))
                raise ValueError(f'{name} must be among {told} for whole samples, got {given}')
        if self.which not in ENCODERS:
            raise ValueError(f'which must be one of {", ".join(ENCODERS)}, got {self.which!r}')
        if self.views not in (1, 3):
            raise ValueError(f'views must be 1 or 3, got {self.views}')
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f'seeds must be one or more different numbers, got {self.seeds}')
        for name in ('max_train', 'max_test', 'batch_size', 'clips'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f'{name} must be at least 1, got {value}')
