"""Others' servers and clients: programs that echo or are echoed, permessage-deflate turned on."""
