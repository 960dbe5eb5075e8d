"""What `fetch` reads: the hub, buckets, web servers, folders, each as files that can be read from any byte on; may import
the command line and the workspace."""
