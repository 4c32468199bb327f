include { named ; options ; threads } from '../shell'

// Accessibility of each group of cells along the genome, as bigWig
process TRACKS {
    label 'process_low'
    label 'image_cpu'

    input:
    path embedding
    tuple val(samples), path(fragments, stageAs: 'fragments?/*'), val(mapped), path(maps, stageAs: 'maps?/*') // in one order; all may be []
    val settings // [ genome, chrom_style, mito_contig, groups ]
    path chrom_sizes, stageAs: 'genome/chrom_sizes/*'

    output:
    path 'tracks/*.bw', emit: tracks, optional: true
    path 'tracks.json', emit: facts // what was made, or why not
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    mkdir tracks
    multivi-nf-tracks --resources tracks.resources.json ${embedding} \\
        ${named('fragments', samples, fragments)} ${named('barcode-map', mapped, maps)} \\
        ${options(chrom_sizes: chrom_sizes)} ${options(settings)} --facts=tracks.json --output=tracks
    """

    stub:
    """
    mkdir tracks
    touch tracks/0.bw
    echo '{"part": "tracks", "done": true}' > tracks.json
    echo '{}' > tracks.resources.json
    """
}
