"""Shape and position measures of somas."""
