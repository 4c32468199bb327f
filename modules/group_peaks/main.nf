include { named ; options ; threads } from '../shell'

// Peaks of each group of cells by itself, called by MACS3, and merged with the run's peaks
process GROUP_PEAKS {
    label 'process_medium'
    label 'image_macs3'

    input:
    path embedding
    tuple val(samples), path(fragments, stageAs: 'fragments?/*'), val(mapped), path(maps, stageAs: 'maps?/*') // in one order; all may be []
    path consensus, stageAs: 'consensus/*' // or []: the embedding's peaks
    val settings // [ genome, chrom_style, mito_contig, groups ]
    path chrom_sizes, stageAs: 'genome/chrom_sizes/*'
    path blacklist, stageAs: 'genome/blacklist/*'

    output:
    path 'peaks/*.bed', emit: peaks, optional: true
    path 'peaks_merged.bed', emit: merged, optional: true
    path 'group_peaks.json', emit: facts // what was made, or why not
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions
    tuple val("${task.process}"), val('macs3'), eval('(macs3 --version || echo absent) 2> /dev/null | sed "s/.* //"'), topic: versions

    script:
    """
    ${threads(1)}
    mkdir peaks
    multivi-nf-group-peaks --resources group_peaks.resources.json ${embedding} \\
        ${named('fragments', samples, fragments)} ${named('barcode-map', mapped, maps)} \\
        ${options(peaks: consensus, chrom_sizes: chrom_sizes, blacklist: blacklist)} ${options(settings)} \\
        --workers=${task.cpus} --facts=group_peaks.json --merged=peaks_merged.bed --output=peaks
    """

    stub:
    """
    mkdir peaks
    touch peaks/0.bed peaks_merged.bed
    echo '{"part": "group_peaks", "done": true}' > group_peaks.json
    echo '{}' > group_peaks.resources.json
    """
}
