"""What fine-tuning needs besides the core: ``lidar`` and ``images``, imported by name alone."""
