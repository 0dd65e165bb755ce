"""Looking into a trained model: attention, stages, calibration. Imports up to model."""
