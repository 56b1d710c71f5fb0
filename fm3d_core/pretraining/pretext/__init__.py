"""Self-supervised pretraining by inpainting, contrast and rotation (Tang et al. 2022), a peer of 3DINO."""
