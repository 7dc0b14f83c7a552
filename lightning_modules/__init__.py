"""Training: Lightning modules, the data module, callbacks, metrics and the LightningCLI."""
