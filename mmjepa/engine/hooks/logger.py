"""Log lines."""

from typing import Any

from mmengine.hooks import LoggerHook

from mmjepa.registry import HOOKS


@HOOKS.register_module()
class JEPALoggerHook(LoggerHook):
    """MMEngine's hook; metrics may also come from a probe, without a validation loop."""

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Log the metrics of a validation loop or of a probe."""
        if runner.val_loop is not None:
            super().after_val_epoch(runner, metrics)
            return
        step = getattr(runner.train_loop, 'completed', runner.iter)
        numbers = {k: v for k, v in (metrics or {}).items() if isinstance(v, (int, float))}
        told = '  '.join(f'{name}: {value:.4f}' for name, value in numbers.items())
        runner.logger.info(f'measured after {step} iterations:  {told}')
        runner.visualizer.add_scalars(numbers, step=step, file_path=self.json_log_path)
