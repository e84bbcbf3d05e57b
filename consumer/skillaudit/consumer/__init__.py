"""Record sources, the materializer that turns batches into rows, and the service around them."""
